"""The KV cache as the host sees it: block numbers and counts. No torch, no device."""
