"""The reviewers' door: answers people disliked, corrected by a person, become what the next night learns."""
