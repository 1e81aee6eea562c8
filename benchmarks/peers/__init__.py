"""Peers: the same work in other frameworks, found by name and only ever imported where it is asked for.

`torch_NAME.py`, of an experiment's name, is the peer of its trainings. It has

- `LAYOUTS`: names of torch's memory formats worth a row;
- `output(training)`: what our network makes of the batch, an array;
- `trainer(training, how)`: a `torch_common.Trainer` of the same network with the same numbers on the same
  batch, or None for a training without a peer. Its `output()` is that array of torch's, its `step()` one
  training step. With `how.exact` it draws the noise that our steps draw.

A peer of a VAE may have `sampler(training, how, batch)` too: a `torch_common.Sampler` of so many images, or
None.

All get a `benchmarks.trainings.Training`. Outputs and the losses of the first steps are compared before
timing.
"""
