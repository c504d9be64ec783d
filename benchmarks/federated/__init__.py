"""The federated benchmark: workloads, adapters of other libraries and their measurement."""
