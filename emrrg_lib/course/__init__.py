"""The course: what builds and executes the numbered notebooks."""
