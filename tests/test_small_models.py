from __future__ import annotations

from empo.small_models import small_base, train_tokenizer


def test_a_small_base_has_the_size_it_was_asked_for() -> None:
    tokenizer = train_tokenizer(["I lost my cat."] * 5, 300)
    config = small_base(tokenizer, 16, 3, 4, 64).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 3, 4)
    assert (config.num_key_value_heads, config.max_position_embeddings) == (2, 64)
    assert (config.vocab_size, config.eos_token_id) == (len(tokenizer), tokenizer.eos_token_id)
    assert config.model_type == "mistral"


def test_training_a_tokenizer_twice_gives_the_same_tokens() -> None:
    first, second = (train_tokenizer(["I lost my cat."] * 5, 300) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first("I lost my cat. 😢").input_ids == second("I lost my cat. 😢").input_ids
