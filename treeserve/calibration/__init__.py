"""The cost model's constants, measured on the device that serves."""
