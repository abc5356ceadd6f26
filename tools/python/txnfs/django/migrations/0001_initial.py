from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []  # type: ignore[var-annotated]
    operations = [
        migrations.CreateModel(
            name="Decision",
            fields=[("gid", models.CharField(max_length=200, primary_key=True, serialize=False)),
                    ("mount", models.TextField()),
                    ("created", models.DateTimeField())],
            options={"db_table": "txnfs_decision"}),
        migrations.CreateModel(
            name="Identity",
            fields=[("id", models.SmallIntegerField(primary_key=True, serialize=False)),
                    ("uuid", models.CharField(max_length=32))],
            options={"db_table": "txnfs_identity"}),
    ]
