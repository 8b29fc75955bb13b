"""Results of a run in the forms that others take: datasets, students with their cards, uploads to a hub."""
