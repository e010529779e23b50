"""The part that thinks: pure values, state tables and folds. No asyncio, no clock, no I/O.

Time comes in as an argument or inside an event; randomness comes in as a `random.Random`-shaped callable. Everything
here can be read, tested and replayed without a broker.
"""
