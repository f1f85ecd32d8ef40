<!-- scaffold_of_one.pml:4:3: scaffold 'x'; expected modules="…" with two or more different names -->
<schema name="s">
  <module name="a">text</module>
  <scaffold name="x" modules="a a"/>
</schema>
