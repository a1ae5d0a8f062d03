"""The mathematics, written once: functions of scalars and of short vectors, with no allocation and no backend."""
