"""Simulate example subjects whose bundles are known.

The modules, in the order of the computation: ``geometry`` defines the bundles, ``anatomy`` deforms them into the head
of one subject and chooses its voxel grid, ``voxelize`` computes which fibers are in which voxel, ``simulate`` computes
the diffusion images, ``tensor_maps`` fits the maps that serve as input to a network, ``create`` writes the data set and
``output`` manages its folder.
"""
