<!-- tag_in_scaffold.pml:3:36: <module> in a <scaffold>; expected nothing in it -->
<schema name="s">
  <scaffold name="x" modules="a b"><module name="a">text</module></scaffold>
</schema>
