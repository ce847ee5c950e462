"""Wire formats, sans-IO: pure functions and small state machines over bytes. Nothing here opens, waits or remembers a socket."""
