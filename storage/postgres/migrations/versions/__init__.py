"""Migrations of stores on PostgreSQL."""
