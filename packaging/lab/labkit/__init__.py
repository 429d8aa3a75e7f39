"""A lab of real nodes on one Linux machine.

plan (pure: names, addresses) <- host (the machine's tools) <- image, s3, net, node <- lab (one lab's life) <- cli,
demo. An arrow never points the other way. Standard library only: a user's first contact with pgha is `lab up`
on a machine where nothing of it is installed yet.
"""
