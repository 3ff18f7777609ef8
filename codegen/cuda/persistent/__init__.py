"""One kernel for the layers of a decode step of one token, in place of a launch for each.

Models of a hundred million parameters spend more time between kernels than in them. A step's plan is a sequence of
launches that repeats, layer by layer, with other weights (`chain`). What each of them reads and makes (`flow`) tells
what a kernel that runs all of them has to hand on from block to block, which is proven to end and to be cleared in
time. Blocks are as many as the GPU holds at once, and each does the same part of a phase in every layer. They do not
meet at barriers: what is handed on lies in memory that is zero at first, with inverted bits, which are never zero, so
that whoever needs a number waits for that number and nothing else (the flag that travels with the data of NCCL's
protocol LL; the Lamport buffers of TensorRT-LLM's all-reduce). Weights are loaded before a phase waits, and called
into L2 a layer ahead.
"""
