"""Language understanding: lm-eval's tasks on one model, every item kept, restartable task by task.

lm-eval asks and scores. Around it: the leaderboards' numbers of examples, data sets that stop only
themselves when they cannot be had, adapter chains, and all that a comparison of two systems item by
item needs. lm-eval and torch are imported inside functions, for they take seconds.
"""
