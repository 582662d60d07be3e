"""An example: a synchronous front for an asynchronous backend.

A client POSTs a job and gets its result in the answer. Behind the gateway the upstream takes the
job with a 202 and calls back later; `correlator` pairs the two.
"""
