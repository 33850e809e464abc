"""The human survey: batches of replies, the page on which people rate them, what the ratings say."""
