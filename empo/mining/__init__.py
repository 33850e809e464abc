"""Mined preference pairs: which opposite reply is rejected is chosen by a rater, not drawn alone.

A pair goes through four steps, each of which can be left out. The pool of an exchange, all replies
to the opposite emotion, is narrowed to those given in a similar context (`nearest`); an epoch draws K
candidates from it (`candidates`); a rater's scores choose among these (`choice`); and a pair stays
only where chosen and rejected reply are far enough apart. All of it is a pure function of seed,
epoch and exchange id, for one corpus and one rater.
"""
