"""The parent process's part: it turns the workers' records into measurements in noise floors, and into verdicts."""
