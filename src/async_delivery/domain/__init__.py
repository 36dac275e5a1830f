"""Values and decisions of the service: what a job is, what may happen to it, and what follows.

Standard library only. No I/O, no clock, no random numbers, no logging: time, ids and jitter are arguments.
"""
