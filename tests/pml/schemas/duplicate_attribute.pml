<!-- duplicate_attribute.pml:3:20: an attribute is given twice; expected it once -->
<schema name="s">
  <module name="a" name="b">text</module>
</schema>
