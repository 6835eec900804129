"""A season of recordings: deployments, effort, when and where labels were detected, reports for others."""
