"""Origins: what a run reads its rows from. Each module makes an `source.Source` of one kind of place."""
