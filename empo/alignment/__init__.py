"""Training: masked-turn SFT and re-drawn DPO on trl's trainers."""
