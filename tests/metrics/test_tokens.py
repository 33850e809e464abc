from empo.metrics.tokens import word_tokens


def test_case_and_punctuation_are_kept():
    assert word_tokens("I'm sorry, Ann!") == ("I", "'m", "sorry", ",", "Ann", "!")


def test_sentences_are_split_so_that_inner_full_stops_are_tokens():
    # without the split the tokenizer leaves a full stop inside a text at its word
    assert word_tokens("  Oh no. Really? Yes.\n") == ("Oh", "no", ".", "Really", "?", "Yes", ".")


def test_no_split_without_white_space():
    assert word_tokens("well...ok e.g.this") == ("well", "...", "ok", "e.g.this")


def test_blank_text_has_no_tokens():
    assert word_tokens(" \n\t ") == ()
