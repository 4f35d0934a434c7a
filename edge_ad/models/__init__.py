"""Networks in plain torch: preprocessing, teachers, students, and how they become an anomaly map."""
