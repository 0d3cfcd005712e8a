"""What a schedule costs on a machine: its rates, operations' costs, when each would run."""
