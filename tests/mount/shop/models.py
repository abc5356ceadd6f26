from django.db import models


class Order(models.Model):
    number = models.IntegerField(unique=True)
    invoice = models.FileField(upload_to="invoices/")


class Item(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE)
    name = models.CharField(max_length=80)


class Picture(models.Model):
    image = models.ImageField(upload_to="pictures/", width_field="width", height_field="height")
    width = models.IntegerField()
    height = models.IntegerField()
