"""The reconciler: the journal held against streams and stores, minute by minute, and what is missing given back."""
