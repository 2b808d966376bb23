"""The same training steps in jnn and in its peers, a module each.

A module has NETWORKS, `workload -> build(weights)`, where `weights` are jnn's parameters under jnn's paths, as
`dense_0/w -> array`; `build` returns `(state, step)`, `step(state, batch) -> (state, loss)`, compiled, as the library's own
documentation would write it, with the old state donated where the library offers that. The loss is the mean softmax
cross-entropy before the update. `prepare(batch)` moves a batch to where the library wants it, `wait(loss)` gives it as a float;
`COMPILES` says whether the first step is preceded by compilation.
"""
