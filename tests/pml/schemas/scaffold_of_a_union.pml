<!-- scaffold_of_a_union.pml:7:3: scaffold 'x' has 'inner' and 'b' of one union; expected modules that one prompt can import -->
<schema name="s">
  <union>
    <module name="a">one<module name="inner">text</module></module>
    <module name="b">two</module>
  </union>
  <scaffold name="x" modules="inner b"/>
</schema>
