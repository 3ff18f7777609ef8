"""One kernel for the layers of a decode step of one token, in place of a launch for each.

Models of a hundred million parameters spend more time between kernels than in them. A step's plan is a sequence of
launches that repeats, layer by layer, with other weights (`chain`). What each of them reads and makes (`flow`) tells
what a kernel that runs all of them has to hand on, and that waiting for it ends. The blocks of a
cluster reach each other's shared memory, five times faster than through L2. So clusters share a layer such that only
two of its values go further (`split`): a cluster has a head of keys and values, from the projections to its columns of
the output projection, or a part of the MLP's inner dims; what they make are parts of sums.

Clusters do not meet at barriers. What goes through L2 lies in memory that is zero at first, with inverted bits, which
are never zero, so that whoever needs a number waits for that number and nothing else (the flag that travels with the
data of NCCL's protocol LL; the Lamport buffers of TensorRT-LLM's all-reduce). Inside a cluster mbarriers count bytes.
Weights come to shared memory layers ahead. The source is CUDA C++ (`nvrtc`): neither Triton nor Gluon say where in a
cluster a number is to go.
"""
