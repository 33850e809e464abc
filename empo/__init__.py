"""EmPO: empathetic response generation through preference optimization, measured honestly."""

__version__ = "0.1.0"
