"""What runs in the peers' own environments: the job, the workers, and what submits to them."""
