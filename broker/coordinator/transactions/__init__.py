"""The transaction coordinator: transactional ids, their producers, and the two phases of a commit (KIP-98, KIP-890). See docs/transactions.md."""
