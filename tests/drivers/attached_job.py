"""A driver of another's cluster: prints whether its job brings the environment it needs."""

import ray

from facevae.ray_cluster.connect import ALLOCATOR_ENVIRONMENT, TRAIN_ENVIRONMENT, connect

connect()
variables = ray.get_runtime_context().runtime_env["env_vars"]
print(variables == ALLOCATOR_ENVIRONMENT | TRAIN_ENVIRONMENT)
