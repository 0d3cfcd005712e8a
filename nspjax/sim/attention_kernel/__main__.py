from nspjax.sim.attention_kernel.table import report

print(report())
