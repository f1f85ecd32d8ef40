<!-- scaffold_of_strangers.pml:4:3: scaffold 'x' has no module 'b'; expected one of the schema -->
<schema name="s">
  <module name="a">text</module>
  <scaffold name="x" modules="a b"/>
</schema>
