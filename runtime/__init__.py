"""The executor: runs a verified plan with torch.distributed (imported as `pipec.runtime`)."""
