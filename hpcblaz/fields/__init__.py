"""Fields that stay compressed, and what can be computed with them.

``compress``
    From an array to a CompressedArray.
``array``
    CompressedArray: values, arithmetic and statistics as methods.
``codec``
    ToleranceCodec and BlockCodec.
``statistics``, ``arithmetic``
    Operations on coefficients.
``certificates``, ``scalars``
    Bounds, and floats that carry them.
``window``
    Basic indices.
``storage``
    Files.
"""
