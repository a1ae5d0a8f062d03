"""Fields that stay compressed, and what can be computed with them.

``compress``
    From an array to a CompressedArray.
``array``
    CompressedArray: values, arithmetic and statistics as methods.
``codec``, ``target``
    ToleranceCodec and BlockCodec, and what they are to hold.
``arithmetic``, ``statistics``, ``blockwise``
    Operations on coefficients; ``moments`` are the sums that statistics are made of.
``certificates``, ``scalars``
    Bounds, and floats that carry them.
``window``
    Basic indices.
``saving``, ``storage``
    To files and from files; ``fileformat`` is their header, ``regroup`` brings blocks to other ranks.
``benchmark``, ``timing``, ``peers``, ``processes``, ``sample_fields``
    What ``hpcblaz bench fields`` measures, on what, and against what; ``gpu_benchmark``, ``gpu_peers`` and
    ``gpu_timing`` do so on a GPU.
``views``, ``comparison``
    Fields to look at, compressed or plain, and how far two of them are from each other.
``pictures``, ``sampling``, ``rates``
    What is drawn of fields; matplotlib is imported by ``pictures`` alone.
``readers``
    Plain arrays in files.
"""
