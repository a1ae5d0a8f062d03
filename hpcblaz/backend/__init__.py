"""The only folder that knows CPU from GPU.

``blocks``
    How a field is cut into blocks, regions and tiles.
``payload``
    How blocks are computed with, and the payloads of compressed fields.
``cpu``, ``gpu``
    Drivers with the same functions: compress, decompress and compute with tiles, on all threads or on a card; which of
    them are meant is chosen in ``dispatch``. ``gpu_memory`` holds what the kernels of a card work with,
    and ``gpu_launch`` queues them.
``templates``, ``cuda_templates``
    The kernels, specialised by ``compile`` (with transforms written by ``generate``); those of the GPU are made
    into machine code by ``cuda_build``, and listed with what they need by ``cuda_report`` and ``cuda_message_report``.
``threads``
    How many threads, and running them.
"""
