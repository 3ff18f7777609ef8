"""The bindings import this module once for `wl`; without it they search for it at every op they hand out."""
