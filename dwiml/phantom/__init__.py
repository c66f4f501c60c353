"""Example subjects with known truth, simulated on the spot.

The story, in the order of the modules: ``geometry`` draws the bundles, ``anatomy`` bends them into one subject's head
and chooses its voxel grid, ``voxelize`` says which fibres are in which voxel, ``simulate`` turns that into a diffusion
acquisition, ``metrics`` computes what a network reads, ``create`` writes it all in a folder.
"""
