<!-- duplicate_scaffold.pml:5:3: scaffold name 'a' is taken; expected one of its own -->
<schema name="s">
  <module name="a">text</module>
  <module name="b">text</module>
  <scaffold name="a" modules="a b"/>
</schema>
