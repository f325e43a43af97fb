"""What is wrong with the recorder, the machine it runs on, or the way to Kite, and what to do about it.

Every check gathers facts first and judges them apart from that, in a pure function. Nothing here changes anything.
"""
