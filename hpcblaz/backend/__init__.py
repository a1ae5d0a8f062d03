"""The only folder that knows CPU from GPU.

``blocks``
    How a field is cut into blocks, regions and tiles.
``cpu``
    Drivers: compress, decompress and compute with tiles, on all threads.
``templates``
    The kernels, specialised and compiled by ``compile`` (with transforms written by ``generate``).
``threads``
    How many threads, and running them.
"""
