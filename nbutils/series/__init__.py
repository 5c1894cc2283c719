"""The series of notebooks: how one begins and ends, parameters, runner, what is published, site."""
