"""Outlets: where a source's rows go. Each is an async context that gives an `upload.Outlet`."""
