"""What `muxx bench` measures with: an upstream, a gateway, load, the machine they run on, and the words for what came out.

No other command imports it.
"""
