"""One model of a machine: for passes that choose, for pictures, for whoever asks what a schedule
takes.

| file | says |
|---|---|
| `costs` | what a module moves and computes: traffic, without a rate |
| `rates` | how fast the machine is, as attributes of a module |
| `lanes` | traffic over rates: what is busy, for how long, and who has to wait |
| `read_ahead` | what the devices read before it is asked for |
| `timeline` | when each operation of a module would run: `Schedule.of(module).on(rates)` |
| `picture` | a timeline as an SVG |

A choice compares the timelines of two modules, or, where it must come to the same in several
programs, `lanes.side_by_side_s` of the costs of its own alternatives.
"""
