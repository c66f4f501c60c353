"""Tractograms in VTK files: .vtk and .fib (legacy), .vtp (XML)."""
